;; world: sizing-policy
;; Makes an integer of what is not a number.
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then
    (drop (i32.trunc_f32_u (f32.div (f32.const 0) (f32.convert_i32_u (i32.sub (local.get 0) (local.get 0))))))))
  (call $calm_sizes))
