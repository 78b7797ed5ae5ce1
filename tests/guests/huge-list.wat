;; world: planning-policy
;; Gives back half a million CIDRs.
(data (i32.const 2060) "\00\00\00\00\20\a1\07\00")
(func (export "reservoir:policy/planning@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then (return (i32.const 2048))))
  (call $calm))
