//go:build race

package rawtcp

const raced = true // the usual calls are used then
