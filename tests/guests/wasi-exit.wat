;; world: wasi-policy
;; Ends its process, as it believes.
(import "wasi:cli/exit@0.2.6" "exit" (func $exit (param i32)))
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then (call $exit (i32.const 0))))
  (call $calm_sizes))
