;; world: planning-policy
;; Grows by nothing: assigns none to the first interface, makes one with none.
(data (i32.const 2052) "\80\08\00\00\02\00\00\00")
(data (i32.const 2196) "\01\00\00\00")
(func (export "reservoir:policy/planning@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then
    (i64.store (i32.const 2180) (i64.load (i32.load offset=64 (local.get 0))))
    (return (i32.const 2048))))
  (call $calm))
