;; world: subnet-policy
;; Ranks a thousand subnets.
(data (i32.const 2052) "\00\10\00\00\e8\03\00\00")
(func (export "reservoir:policy/subnets@0.1.0#rank") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then (return (i32.const 2048))))
  (call $calm))
