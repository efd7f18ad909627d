package load

// Message is an argument and a reply of the usual kind, where they are not raw bytes: NewMessage has
// PayloadSize bytes as JSON.
type Message struct {
	ID     int64    `json:"id"`
	From   string   `json:"from"`
	To     []string `json:"to"`
	Urgent bool     `json:"urgent"`
	Weight float64  `json:"weight"`
	Text   string   `json:"text"`
}

// NewMessage gives the message that is sent.
func NewMessage() Message {
	return Message{
		ID: 1234567890, From: "ann", To: []string{"bob", "carol", "dave"}, Urgent: true, Weight: 0.25,
		Text: "A message of the length that is usual for requests and replies, with \"quotes\" to escape, and more text",
	}
}
