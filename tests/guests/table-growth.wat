;; world: sizing-policy
;; Grows a table until it is refused, then traps.
(table $t 1 funcref)
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then
    (loop $again
      (br_if $again (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1))))
    unreachable))
  (call $calm_sizes))
