;; world: sizing-policy
;; No targets for a node that has a card.
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then (return (call $calm))))
  (call $calm_sizes))
