//go:build !amd64

package main

var abiAttacks []attack
