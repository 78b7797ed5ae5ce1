;; world: sizing-policy
;; Never comes back.
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then (loop $again (br $again))))
  (call $calm_sizes))
