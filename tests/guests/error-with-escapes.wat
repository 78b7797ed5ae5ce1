;; world: sizing-policy
;; An error that would write to a terminal and forge a line in a log.
(data (i32.const 2048) "\01\00\00\00\20\08\00\00\14\00\00\00")
(data (i32.const 2080) "\1b[2Joops\nlevel=ERROR")
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then (return (i32.const 2048))))
  (call $calm_sizes))
