;; world: planning-policy
;; Removes the first two interfaces, the node's own among them.
(data (i32.const 2068) "\e0\08\00\00\02\00\00\00")
(func (export "reservoir:policy/planning@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then
    (i64.store (i32.const 2272) (i64.load (i32.load offset=64 (local.get 0))))
    (i64.store (i32.const 2280) (i64.load offset=40 (i32.load offset=64 (local.get 0))))
    (return (i32.const 2048))))
  (call $calm))
