;; world: sizing-policy
;; Calls through a table what has another type.
(type $no_argument (func (result i64)))
(table 1 funcref)
(elem (i32.const 0) $calm_sizes)
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then (drop (call_indirect (type $no_argument) (i32.const 0)))))
  (call $calm_sizes))
