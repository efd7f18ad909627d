// Package offer is the protocol /cell/host/1: a caller offers a cell to a donor, which says yes, no or
// when, and takes it up if it is asked to. Both halves are here. It owns what is said, its bounds, and
// who may say it how often; what a donor's machine can spare and how a cell is taken up are behind Donor.
package offer
