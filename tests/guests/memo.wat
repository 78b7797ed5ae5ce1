;; world: sizing-policy
;; Remembers more each time: warm-ips is the length n of the memo it was given, the new one has 16 n + 1 bytes.
(func (export "reservoir:policy/sizing@0.1.0#decide") (param i32) (result i32)
  (local $given i32)
  (local.set $given (i32.load offset=148 (local.get 0)))
  (i32.store (i32.const 2052) (i32.const 2304))
  (i32.store (i32.const 2056) (i32.const 1))
  (i32.store offset=4 (i32.const 2304) (local.get $given))
  (i32.store (i32.const 2080) (i32.const 262144))
  (i32.store (i32.const 2084) (i32.add (i32.mul (local.get $given) (i32.const 16)) (i32.const 1)))
  (i32.const 2048))
