;; world: sizing-policy
;; Logs at a level that does not exist.
(import "reservoir:policy/log@0.1.0" "write" (func $write (param i32 i32 i32)))
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then (call $write (i32.const 9) (i32.const 0) (i32.const 0))))
  (call $calm_sizes))
