;; world: subnet-policy
;; Traps where it should say where.
(func (export "reservoir:policy/subnets@0.1.0#rank") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then unreachable))
  (call $calm))
