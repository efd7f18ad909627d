// Package patcher keeps a cell's program what the signed patches in the cell's directory patch/ make
// of it: it watches the directory, checks what is dropped there, rebuilds the program and has it
// swapped, and puts the program before it back when a patch is deleted or its result does not run.
//
// It owns patch/ and the hidden directory patch/.base in it, and is the only part of a nucleus that
// writes the program's file. What a patch is, and whether its bytes hold together, is cellproto/patch's;
// how a running program is replaced is the Swapper's. What is to be done is decided by a pure function
// (decide); the rest does it, in an order in which a kill at any point leaves one whole program.
package patcher
