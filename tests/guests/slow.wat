;; world: sizing-policy
;; Takes its time: two million turns of a loop, then a good answer.
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (local $left i32)
  (if (call $provoked (local.get 0)) (then
    (local.set $left (i32.const 2000000))
    (loop $again (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))
  (call $calm_sizes))
