;; world: sizing-policy
;; All targets are as large as a number gets.
(data (i32.const 2052) "\00\09\00\00\01\00\00\00")
(data (i32.const 2304) "\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff")
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then (return (i32.const 2048))))
  (call $calm_sizes))
