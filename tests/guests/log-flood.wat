;; world: sizing-policy
;; Logs a hundred lines of a megabyte.
(import "reservoir:policy/log@0.1.0" "write" (func $write (param i32 i32 i32)))
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (local $left i32)
  (if (call $provoked (local.get 0)) (then
    (memory.fill (i32.const 262144) (i32.const 0x78) (i32.const 1048576))
    (local.set $left (i32.const 100))
    (loop $again
      (call $write (i32.const 2) (i32.const 262144) (i32.const 1048576))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))
  (call $calm_sizes))
