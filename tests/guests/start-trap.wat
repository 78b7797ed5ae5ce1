;; world: sizing-policy
;; Traps before it is asked.
(func $stop unreachable)
(start $stop)
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32) (call $calm_sizes))
