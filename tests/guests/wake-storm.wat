;; world: sizing-policy
;; Wants to be asked again at once, always.
(data (i32.const 2052) "\40\04\00\00\01\00\00\00\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\01")
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then (return (i32.const 2048))))
  (call $calm_sizes))
