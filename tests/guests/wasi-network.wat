;; world: wasi-policy
;; Opens a network.
(import "wasi:sockets/instance-network@0.2.6" "instance-network" (func $network (result i32)))
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then (drop (call $network))))
  (call $calm_sizes))
