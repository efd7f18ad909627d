package load

// Turns is a comparison that was made within one process: what a call of each side took in each round, in ns.
type Turns struct {
	What   string    `json:"what"`
	AtMost float64   `json:"at_most"` // goal for the ratio; 0: none
	Ours   []float64 `json:"ours"`
	Peer   []float64 `json:"peer"`
}
