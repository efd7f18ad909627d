//go:build !linux

package node

func lower() {} // nothing is hosted here
