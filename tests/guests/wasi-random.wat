;; world: wasi-policy
;; Throws dice: minimum-ips is a random number from 0 to 63.
(import "wasi:random/random@0.2.6" "get-random-u64" (func $random (result i64)))
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (i32.store (i32.const 1100) (i32.and (i32.const 63) (i32.wrap_i64 (call $random))))
  (call $calm_sizes))
