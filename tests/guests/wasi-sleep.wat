;; world: wasi-policy
;; Sleeps for a year, then answers.
(import "wasi:clocks/monotonic-clock@0.2.6" "subscribe-duration" (func $subscribe (param i64) (result i32)))
(import "wasi:io/poll@0.2.6" "[method]pollable.block" (func $block (param i32)))
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then
    (call $block (call $subscribe (i64.const 31536000000000000)))))
  (call $calm_sizes))
