"""Sagas: the engines that drive the flows across cells. Their rules are in cells/domain."""
