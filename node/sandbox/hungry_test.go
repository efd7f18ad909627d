//go:build !linux

package sandbox

func hungry() {}
