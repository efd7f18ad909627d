// Command hello prints one line: what the start of cellctl is compared with.
package main

import "fmt"

func main() { fmt.Println("7") }
