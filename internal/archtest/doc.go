// Package archtest holds the repository's rules as tests: who may import whom and why, one doc per package, no sleeping
// tests outside a bubble, file sizes, and nothing in a tracked file that only one machine knows.
//
// Each rule is a function from parsed files to violations, so that the same function judges this repository and the
// small false ones that prove it catches something. A rule is changed here, with its reason, or not at all.
//
// It reads syntax only: nothing is compiled, and build constraints are ignored.
package archtest
