;; world: planning-policy
;; Gives back a CIDR of which a pod holds an IP: the first of the first interface.
(data (i32.const 2060) "\c0\08\00\00\01\00\00\00")
(func (export "reservoir:policy/planning@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then
    (i32.store (i32.const 2240) (i32.load (i32.load offset=32 (i32.load offset=64 (local.get 0)))))
    (return (i32.const 2048))))
  (call $calm))
