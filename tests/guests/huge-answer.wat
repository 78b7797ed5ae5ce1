;; world: planning-policy
;; An answer of eight megabytes: two million CIDRs.
(data (i32.const 2060) "\00\00\00\00\80\84\1e\00")
(func (export "reservoir:policy/planning@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then
    (drop (memory.grow (i32.const 128)))
    (return (i32.const 2048))))
  (call $calm))
