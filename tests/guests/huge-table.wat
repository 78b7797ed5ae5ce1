;; world: sizing-policy
;; Wants a table of ten million elements from the start.
(table 10000000 funcref)
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32) (call $calm_sizes))
