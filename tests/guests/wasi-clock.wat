;; world: wasi-policy
;; Waits in a loop for a clock to move.
(import "wasi:clocks/monotonic-clock@0.2.6" "now" (func $now (result i64)))
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (local $start i64)
  (if (call $provoked (local.get 0)) (then
    (local.set $start (call $now))
    (loop $again (br_if $again (i64.eq (local.get $start) (call $now))))))
  (call $calm_sizes))
