;; world: sizing-policy
;; Allocates without end.
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then
    (loop $again (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
    unreachable))
  (call $calm_sizes))
