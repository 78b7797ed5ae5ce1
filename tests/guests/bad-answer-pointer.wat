;; world: sizing-policy
;; An answer that lies beyond its memory.
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then (return (i32.const -1024))))
  (call $calm_sizes))
