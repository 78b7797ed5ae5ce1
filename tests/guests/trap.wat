;; world: sizing-policy
;; Traps.
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then unreachable))
  (call $calm_sizes))
