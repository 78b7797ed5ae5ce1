;; world: sizing-policy
;; Answers with an error.
(data (i32.const 2052) "\10\08\00\00\1c\00\00\00")
(data (i32.const 2048) "\01")
(data (i32.const 2064) "setting target: not a number")
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then (return (i32.const 2048))))
  (call $calm_sizes))
