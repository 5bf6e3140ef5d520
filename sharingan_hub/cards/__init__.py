"""Model cards, and strangers' text made harmless."""

from sharingan_hub.cards.card import build_card as build_card
from sharingan_hub.cards.card import figure as figure
from sharingan_hub.cards.card import metrics_table as metrics_table
from sharingan_hub.cards.card import write_card as write_card
from sharingan_hub.cards.edits import is_as_written as is_as_written
from sharingan_hub.cards.edits import read_card as read_card
from sharingan_hub.cards.edits import update_card as update_card
from sharingan_hub.cards.facts import public_report as public_report
from sharingan_hub.cards.facts import told_name as told_name
from sharingan_hub.cards.safe_text import plain_text as plain_text
from sharingan_hub.cards.safe_text import safe_card as safe_card
