;; world: sizing-policy
;; Traps when it is told that its answer was taken.
(global $provoked_before (mut i32) (i32.const 0))
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (global.set $provoked_before (call $provoked (local.get 0)))
  (call $calm_sizes))
(func (export "cabi_post_reservoir:policy/sizing@0.1.0#decide") (param i32)
  (if (global.get $provoked_before) (then unreachable)))
