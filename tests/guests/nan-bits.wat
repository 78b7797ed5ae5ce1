;; world: sizing-policy
;; Answers with bits of a NaN that differ from machine to machine if nobody makes them the same:
;; minimum-ips = 5 + the low 16 bits of a NaN with a payload, plus one.
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then
    (i32.store (i32.const 1100) (i32.add (i32.const 5) (i32.and (i32.const 0xffff)
      (i32.reinterpret_f32 (f32.add (f32.const 1) (f32.reinterpret_i32 (i32.const 0x7fa00003)))))))))
  (call $calm_sizes))
