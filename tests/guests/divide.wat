;; world: sizing-policy
;; Divides by zero.
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then
    (drop (i32.div_u (i32.const 1) (i32.sub (local.get 0) (local.get 0))))))
  (call $calm_sizes))
