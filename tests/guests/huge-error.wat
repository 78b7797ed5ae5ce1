;; world: sizing-policy
;; An error of a megabyte and a half.
(data (i32.const 2048) "\01\00\00\00\00\00\04\00\00\00\17\00")
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then
    (memory.fill (i32.const 262144) (i32.const 0x65) (i32.const 1507328))
    (return (i32.const 2048))))
  (call $calm_sizes))
