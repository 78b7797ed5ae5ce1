;; world: planning-policy
;; Asks for nine of a unit that does not exist.
(data (i32.const 2052) "\80\08\00\00\01\00\00\00")
(data (i32.const 2176) "\01\00\00\00\00\00\00\00\63\00\00\00\09\00\00\00")
(func (export "reservoir:policy/planning@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then (return (i32.const 2048))))
  (call $calm))
