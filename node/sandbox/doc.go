// Package sandbox runs a program that nobody trusts, and says what it used. It owns the tiers of
// confinement, what a confined program may see and call, its limits, and the meter that watches it.
//
// What is done is decided first, by pure functions: a Config and the facts of this machine become a
// Plan, a list of steps that can be printed and compared. A plan is then carried out by two short-lived
// copies of the caller: the guard, which makes the namespaces and stays to end the program when its
// owner dies, and the program's own process, which confines itself and becomes the program. A step that
// fails ends both before the program's first instruction: there is no half confined program.
//
// The package does not fetch, verify or choose programs, it speaks no frames, and it does not say how
// much of a machine may be given away. It works on Linux; elsewhere every call says that it cannot.
package sandbox
