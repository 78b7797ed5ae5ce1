;; world: sizing-policy
;; Reads beyond its memory.
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then (drop (i32.load (i32.const -64)))))
  (call $calm_sizes))
