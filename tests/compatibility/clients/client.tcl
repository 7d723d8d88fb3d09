# Run SQL lines from standard input through Tcl's sqlite3 with its defaults: tclsh client.tcl FILE
package require sqlite3
sqlite3 db [lindex $argv 0]
set ok 0; set refused 0; set error ""; set started [clock milliseconds]
while {[gets stdin sql] >= 0} {
    if {[catch {db eval $sql} why]} { incr refused; if {$error eq ""} { set error $why } } else { incr ok }
}
set taken [expr {([clock milliseconds] - $started) / 1000.0}]
puts "{\"ok\": $ok, \"refused\": $refused, \"s\": $taken, \"error\": \"[string map {\" '} $error]\", \"version\": \"[package present sqlite3]\"}"
