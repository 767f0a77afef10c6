//go:build race

package world_test

func init() { raceEnabled = true }
