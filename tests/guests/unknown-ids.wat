;; world: planning-policy
;; Names what is not there, with counts that overflow: assign 4294967295 to eni-nope, create one on card 9 with as many,
;; release CIDRs 4294967295 and 7 twice, remove eni-nope.
(data (i32.const 2052) "\80\08\00\00\02\00\00\00\c0\08\00\00\03\00\00\00\e0\08\00\00\01\00\00\00")
;; growth: 0 tag; 4 eni, or card; assign: 12 unit; 16 count; create-eni: 8 unit; 12 count
(data (i32.const 2176) "\00\00\00\00\f0\08\00\00\08\00\00\00\00\00\00\00\ff\ff\ff\ff")
(data (i32.const 2196) "\01\00\00\00\09\00\00\00\00\00\00\00\ff\ff\ff\ff\00\00\00\00")
(data (i32.const 2240) "\ff\ff\ff\ff\07\00\00\00\07\00\00\00")
(data (i32.const 2272) "\f0\08\00\00\08\00\00\00")
(data (i32.const 2288) "eni-nope")
(func (export "reservoir:policy/planning@0.1.0#decide") (param i32) (result i32)
  (if (call $provoked (local.get 0)) (then (return (i32.const 2048))))
  (call $calm))
