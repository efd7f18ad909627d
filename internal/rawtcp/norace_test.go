//go:build !race

package rawtcp

const raced = false
