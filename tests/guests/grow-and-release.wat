;; world: planning-policy
;; Makes an interface and gives a free CIDR of the same card back: the second of the first interface.
(data (i32.const 2052) "\80\08\00\00\01\00\00\00\c0\08\00\00\01\00\00\00")
(data (i32.const 2176) "\01\00\00\00\00\00\00\00\00\00\00\00\05\00\00\00")
(func (export "reservoir:policy/planning@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then
    (i32.store (i32.const 2240) (i32.load offset=40 (i32.load offset=32 (i32.load offset=64 (local.get 0)))))
    (return (i32.const 2048))))
  (call $calm))
