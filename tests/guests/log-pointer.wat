;; world: sizing-policy
;; Logs a line that lies beyond its memory.
(import "reservoir:policy/log@0.1.0" "write" (func $write (param i32 i32 i32)))
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then (call $write (i32.const 1) (i32.const -4096) (i32.const 64))))
  (call $calm_sizes))
