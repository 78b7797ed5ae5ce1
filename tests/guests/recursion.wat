;; world: sizing-policy
;; Calls itself without end.
(func $deep (param i64) (result i64)
  (i64.add (call $deep (i64.add (local.get 0) (i64.const 1))) (local.get 0)))
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then (drop (call $deep (i64.const 0)))))
  (call $calm_sizes))
